//! The hooks in `examples/hooks`, run as the agent runs them, with a real `PostgreSQL` and a real `MariaDB`.
//!
//! Each test has servers of its own: their data below a temporary directory, reached by a socket there. Nothing else that runs
//! on the machine is looked at.

mod cluster;
mod mariadb;
mod postgresql;
mod room;
