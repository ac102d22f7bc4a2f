"""Models whose memory does not hold the best version of all, while popularity moves."""
