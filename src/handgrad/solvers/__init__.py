"""What finds parameters: gradient descent."""
