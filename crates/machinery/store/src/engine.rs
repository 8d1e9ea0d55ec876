//! The cut between the store and what makes its changes durable.
