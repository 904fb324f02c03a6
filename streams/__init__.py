"""The shell of demur: it acts. Faust agents decode, call `models`, and carry out what comes back."""
