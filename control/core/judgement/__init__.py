"""Did a change help, and is the error budget being spent?"""
