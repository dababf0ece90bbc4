//! Plans and runs of small graphs, and of the bundled model.

#[cfg(test)]
mod books;
#[cfg(test)]
mod control;
#[cfg(test)]
mod differentiate;
#[cfg(test)]
mod equal;
#[cfg(test)]
mod folding;
#[cfg(test)]
mod layers;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod open;
#[cfg(test)]
mod support;
#[cfg(test)]
mod taps;
