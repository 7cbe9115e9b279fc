"""Where messages come from and go to: the Source and Sink protocols and their implementations."""
