//! Passes, pipeline text, the pass manager and its instruments.
