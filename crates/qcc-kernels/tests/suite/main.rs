//! Products through the public interface.

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod products;
