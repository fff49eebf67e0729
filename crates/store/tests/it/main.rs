//! Stores, tried from outside: one program, so that the network's crates are linked once.

mod contract;
mod failing;
mod moto;
mod raw;
mod remote;
mod role;
mod tls;
mod wire;
