//! Recovery of stores cut, torn and damaged in every place.
