//! Products through the public interface.

mod oracle;
mod products;
