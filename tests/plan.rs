//! The planner from outside: stories with their plans written out, and
//! properties of plans for random projects, both on a simulated host.

#[path = "plan/properties.rs"]
mod properties;
#[path = "plan/scale.rs"]
mod scale;
#[path = "plan/stack.rs"]
mod stack;
#[path = "plan/stories.rs"]
mod stories;
#[path = "plan/world.rs"]
mod world;
