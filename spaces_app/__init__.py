"""The trained model behind a web page: its apps, and the push of one as a Space of the Hub."""
