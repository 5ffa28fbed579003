"""What is predicted: cuts in time, label lists, splits."""
