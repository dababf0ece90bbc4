//! The command on bad input and on bad days: an error with a code, or a warning and a whole output;
//! never a panic, a part of an output, or a changed input.

#[cfg(test)]
mod again;
#[cfg(test)]
mod aot;
#[cfg(test)]
mod asked;
#[cfg(test)]
mod bench;
#[cfg(test)]
mod blocks;
#[cfg(test)]
mod budget;
#[cfg(test)]
mod compare;
#[cfg(test)]
mod data_files;
#[cfg(test)]
mod early;
#[cfg(test)]
mod gradients;
#[cfg(test)]
mod joined;
#[cfg(test)]
mod models;
#[cfg(test)]
mod odd_layers;
#[cfg(test)]
mod outputs;
#[cfg(test)]
mod quality;
#[cfg(test)]
mod resume;
#[cfg(test)]
mod reuse;
#[cfg(test)]
mod run;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod timing;
#[cfg(test)]
mod tuning;
