//! The registry over a real store. `world` holds what the cases share; each module is one promise of the crate's front
//! page.

mod admission;
mod apply;
mod custom;
mod deletes;
mod interrupted;
mod lists;
mod model;
mod restart;
mod speed;
mod subresources;
mod upkeep;
mod watches;
mod world;
mod writes;
