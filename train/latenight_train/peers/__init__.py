"""Other people's ways to find strange spectra, to be measured beside ours on the same spectra."""
