"""Is anybody worse off under ``conch control run`` without a policy than with nobody in control?"""
