"""Training of identity encoders on any folder of people, and how well they tell people apart."""
