//! Tests of the schema and of reading and writing, over the crate's public side.

#[cfg(test)]
mod descriptor;
#[cfg(test)]
mod faithful;
