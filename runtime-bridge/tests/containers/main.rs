//! Real containers, as root, of busybox images that the tests make themselves.
//!
//! `life`: start, output, exec, signals, end. Every fixture purges its state directory when it is dropped and checks that nothing is left.

mod fixture;
mod life;
