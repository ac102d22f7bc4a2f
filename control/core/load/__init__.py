"""How much comes, and can the counters be believed?

Looks become intervals, intervals a load with bounds: low = (N - z·√(D·N)) / w requests/s.
"""
