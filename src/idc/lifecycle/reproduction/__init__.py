"""Where a registered model comes from, and whether it can be reproduced."""
