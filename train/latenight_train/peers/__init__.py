"""Other people's ways to find strange spectra, to be measured beside ours on the same spectra.

Each takes the spectra as a careful user would: bad pixels masked, arms averaged by ivar, every spectrum divided by
its norm, no cut on signal-to-noise. The scores are as published, not calibrated to class or signal-to-noise.

spender (0.3) is not among them: with its default layers at DESI's 7781 pixels a training step takes 0.12 CPU seconds
per spectrum, an epoch of 6000 spectra 12 minutes, and scoring 40 ms per spectrum.
"""
