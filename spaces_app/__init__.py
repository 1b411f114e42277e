"""Apps that ask a trained model in the browser, and the way to put them on the Hub."""
