//! Real containers, as root, of busybox images that the tests make themselves.
//!
//! `life`: start, output, exec, signals, end. `confinement`: what a container must not see or do. `images`: layers, pulls,
//! hostile archives. `users`: user namespaces. `adoption`: who dies and what survives. Every fixture purges its state directory when it is dropped and
//! checks that no mount, cgroup or process is left.

mod adoption;
mod confinement;
mod fixture;
mod images;
mod life;
mod oci;
mod users;
