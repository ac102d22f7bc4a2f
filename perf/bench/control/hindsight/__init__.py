"""Whether instances are given back at the right times: against the best ones in hindsight."""
