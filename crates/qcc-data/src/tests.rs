//! What users give, and what becomes of it.

mod arrays;
mod folders;
mod text;
