//! Whole runs of the library on the bundled model.

#[cfg(test)]
mod blockwise;
#[cfg(test)]
mod budget;
#[cfg(test)]
mod determinism;
#[cfg(test)]
mod engine;
#[cfg(test)]
mod every_option;
#[cfg(test)]
mod foreign_pass;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod half_precision;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod options;
#[cfg(test)]
mod own_text;
#[cfg(test)]
mod provenance;
#[cfg(test)]
mod whole;
#[cfg(test)]
mod working_copy;
