"""Pictures and a page that compare contenders over one trace."""
