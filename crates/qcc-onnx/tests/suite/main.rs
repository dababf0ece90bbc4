//! Models through import and export.

#[cfg(test)]
mod build;
#[cfg(test)]
mod functions;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod replace;
#[cfg(test)]
mod rewrite;
