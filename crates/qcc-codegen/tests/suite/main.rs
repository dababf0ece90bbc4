//! Kernels against their definition, and their instructions against what they should be.
#![cfg(feature = "llvm")]

#[cfg(test)]
mod aarch64;
#[cfg(test)]
mod absent;
#[cfg(test)]
mod case;
#[cfg(test)]
mod counts;
#[cfg(test)]
mod driver;
#[cfg(test)]
mod jit;
#[cfg(test)]
mod library;
#[cfg(test)]
mod loops;
#[cfg(test)]
mod native;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod product;
#[cfg(test)]
mod program;
#[cfg(all(test, target_arch = "x86_64"))]
mod vex;
