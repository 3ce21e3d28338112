"""`bench export`: what is offered, the card, and the folder that holds both."""
