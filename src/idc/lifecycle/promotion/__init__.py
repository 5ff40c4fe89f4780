"""When a challenger becomes the champion: both are scored now, on cases that neither has seen."""
