"""Flow maps: jumps from one time to another, exact or learned, and the objectives that train them."""
