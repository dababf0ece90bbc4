//! What a run did, as plain data, and its views.
