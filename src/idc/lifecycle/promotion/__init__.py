"""When a challenger becomes the champion: both scored now, on cases neither ever saw."""
