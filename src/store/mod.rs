//! The state directory: where everything is, records, locks.
//!
//! ```text
//! <state>/                            /var/lib/rcompose, --state-root, RCOMPOSE_STATE_ROOT
//!   images/                           the image store (image/)
//!   networks/<id>.json                network records (network/)
//!   volumes/<name>/{record.json,data} named volumes (volume/)
//!   stacks/<project>/
//!     supervisor.json                 the inputs and options of the running stack
//!     sources/<service>.json          what containers have of followed sources (supervisor/)
//!     generations/<number>.json       what the stack was brought to (supervisor/)
//!     prepared.json                   which `pre_start` hooks have succeeded (host/)
//!     containers/<id>/
//!       record.json                   what the container is (host/)
//!       log                           what it printed (monitor/)
//!       exit.json                     how the last run ended (monitor/)
//!       .exit.json.earlier            how the one before did, while it is started again
//!       upper/ work/                  its writable layer
//! <run>/                              /run/rcompose, or <state>/run in a world of its own
//!   mark/                             the layer below all images (host/)
//!   stacks/<project>/
//!     supervisor.lock supervisor.sock
//!     revive.lock                     held by the monitor that starts a supervisor
//!     <id>.run                        where `run` waits for its container (cli/)
//!     containers/<id>/
//!       run.json                      pids and start times of the present run
//!       run.lock                      held by its monitor, from before that record is there
//!       health.json ports.json        what `ps` shows of it
//!       restarts.json                 how often its policy has restarted it (host/)
//!       root/                         mount point of its root file system
//!       hosts hostname resolv.conf    bind-mounted into it
//! ```
//!
//! A record is written before the kernel object it names is made, and removed
//! after that object is gone, so that whatever exists can be found and undone.
//! Records are replaced by rename; what a killed process leaves of a new one is
//! swept by the next supervisor ([`sweep_records`]). They are not synced to the disk: they
//! describe kernel objects, which no record outlives usefully after a power
//! failure; images and volumes, which do outlive it, sync what they write.

mod paths;
mod record;

pub use paths::{ContainerPaths, World};
pub use record::{Lock, StoreError, read_record, remove_record, sweep_records, write_bytes, write_record};
