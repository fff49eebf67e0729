//! What an image is: manifest, chunks, codecs; packing and unpacking it; signing and checking it; where it stands in a store.

pub mod codec;
pub mod digest;
pub mod open;
mod recent;
pub mod table;

pub use open::Image;
