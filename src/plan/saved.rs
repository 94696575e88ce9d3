//! A plan that was looked at, to be run as it is or not at all.

use serde::{Deserialize, Serialize};

use super::{Action, Plan, render};

/// What is expected to be done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// The plan.
    pub plan: Plan,
    /// Tells apart the models that it was made for.
    pub model: String,
}

impl Expected {
    /// Whether a plan that was made now, for the model of this digest, is the
    /// expected one.
    ///
    /// # Errors
    /// Where they differ, in words.
    pub fn still(&self, plan: &Plan, model: &str) -> Result<(), String> {
        const STALE: &str = "the saved plan is stale";
        let pairs = self.plan.actions.iter().zip(&plan.actions);
        let describe = |action: Option<&Action>| {
            action.map_or_else(
                || "nothing more".to_owned(),
                |action| render::operation(&action.operation),
            )
        };
        let count = pairs.take_while(|(was, is)| is_same(was, is)).count();
        let (was, is) = (self.plan.actions.get(count), plan.actions.get(count));
        if was.is_some() || is.is_some() {
            let (was, is) = (describe(was), describe(is));
            return Err(if was == is {
                format!("{STALE}: \"{is}\" has another cause now")
            } else {
                format!("{STALE}: where it has \"{was}\", \"{is}\" is to be done now")
            });
        }
        if self.model != model {
            return Err(format!("{STALE}: the stack file says something else now"));
        }
        Ok(())
    }
}

/// Whether two actions do the same for the same cause. Where in a file the
/// cause is written does not count.
fn is_same(one: &Action, other: &Action) -> bool {
    use super::Cause;
    let causes = match (&one.cause, &other.cause) {
        (Cause::Changed { changes: one }, Cause::Changed { changes: other }) => {
            let plain = |changes: &[super::Change]| -> Vec<_> {
                let each = changes.iter();
                each.map(|change| (change.field.clone(), change.old.clone(), change.new.clone()))
                    .collect()
            };
            plain(one) == plain(other)
        }
        (one, other) => one == other,
    };
    causes && one.operation == other.operation && one.after == other.after
}

#[cfg(test)]
mod tests {
    use super::super::{Cause, Change, Operation};
    use super::*;
    use crate::project::Origin;

    fn plan(names: &[&str], line: u32) -> Plan {
        let action = |name: &&str| Action {
            operation: Operation::RemoveVolume {
                name: (*name).to_owned(),
            },
            cause: Cause::Changed {
                changes: [Change {
                    field: "a".into(),
                    old: None,
                    new: Some("1".into()),
                    origin: Some(Origin {
                        file: "compose.yaml".into(),
                        line,
                        column: 1,
                        by: None,
                    }),
                }]
                .into(),
            },
            after: vec![],
        };
        Plan {
            actions: names.iter().map(action).collect(),
            ..Plan::default()
        }
    }

    #[test]
    fn another_plan_or_model_is_told_and_a_moved_line_is_not() {
        let expected = Expected {
            plan: plan(&["a", "b"], 3),
            model: "m".into(),
        };
        assert_eq!(expected.still(&plan(&["a", "b"], 4), "m"), Ok(()));
        for (now, model, said) in [
            (
                plan(&["a", "c"], 3),
                "m",
                "where it has \"remove volume b\", \"remove volume c\" is",
            ),
            (plan(&["a"], 3), "m", "\"nothing more\" is to be done now"),
            (
                plan(&["a", "b", "c"], 3),
                "m",
                "where it has \"nothing more\", \"remove volume c\"",
            ),
            (
                plan(&["a", "b"], 3),
                "n",
                "the stack file says something else now",
            ),
        ] {
            let error = expected.still(&now, model).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
