//! Error codes, severities and diagnostics.
