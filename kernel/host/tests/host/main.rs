//! The module host against real WebAssembly and a real registry. `world` is the scene, the others are one file a subject:
//! `lanes` (engine alone), `controllers`, `grants`, `scheduling`, `plugins`, `admission`, `lifecycle` (objects, status, code cache), `swap`, `endurance` (a thousand swaps, a hundred modules, shares of the processor), `versions` (records, shadows, history), `hostile`.

mod admission;
mod controllers;
mod endurance;
mod grants;
mod hostile;
mod lanes;
mod lifecycle;
mod plugins;
mod scheduling;
mod swap;
mod versions;
mod world;
