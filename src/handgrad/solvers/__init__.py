"""What finds parameters: gradient descent; and L-BFGS to a certified optimum, one problem or a path of them."""
