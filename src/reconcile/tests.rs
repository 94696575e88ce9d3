use std::collections::BTreeSet;
use std::sync::Mutex;

use super::*;
use crate::plan::{Cause, Observed, Target};

/// Remembers what was performed; fails where told to; waits where told to.
#[derive(Default)]
struct Recorder {
    done: Mutex<Vec<String>>,
    fail: BTreeSet<String>,
    hang: BTreeSet<String>,
}

fn name(operation: &Operation) -> String {
    match operation {
        Operation::StartContainer { container } => container.name.clone(),
        Operation::Await { service, .. } => format!("await {service}"),
        other => format!("{other:?}"),
    }
}

impl Host for Recorder {
    async fn observe(self: &Arc<Self>, _: &Arc<Project>) -> Result<Observed, HostError> {
        Ok(Observed::default())
    }

    async fn perform(self: &Arc<Self>, _: &Project, operation: &Operation) -> Result<Vec<String>, HostError> {
        let name = name(operation);
        tokio::task::yield_now().await;
        if self.hang.contains(&name) {
            std::future::pending::<()>().await;
        }
        if self.fail.contains(&name) {
            return Err(HostError::NoContainer { name });
        }
        self.done.lock().unwrap().push(name);
        Ok(vec![])
    }
}

fn start(name: &str, after: &[usize]) -> Action {
    let target = Target {
        id: None,
        service: name.into(),
        number: 1,
        name: name.into(),
    };
    Action {
        operation: Operation::StartContainer { container: target },
        cause: Cause::Requested,
        after: after.into(),
    }
}

fn wait(name: &str, after: &[usize]) -> Action {
    wait_for(name, after, true)
}

fn wait_for(name: &str, after: &[usize], required: bool) -> Action {
    Action {
        operation: Operation::Await {
            service: name.into(),
            containers: vec![],
            condition: crate::project::Condition::ServiceHealthy,
            required,
            by: "x".into(),
        },
        cause: Cause::Requested,
        after: after.into(),
    }
}

fn plan(actions: Vec<Action>) -> Plan {
    Plan {
        actions,
        ..Plan::default()
    }
}

#[tokio::test]
async fn every_action_runs_after_its_prerequisites() {
    let host = Arc::new(Recorder::default());
    let plan = plan(vec![
        start("a", &[]),
        start("b", &[0]),
        start("c", &[0]),
        start("d", &[1, 2]),
    ]);
    let report = execute(&host, &Arc::default(), &plan, cancellation().1, |_| {}).await;
    assert!(report.is_success(), "{report:?}");
    let done = host.done.lock().unwrap().clone();
    assert_eq!(done.first().map(String::as_str), Some("a"));
    assert_eq!(done.last().map(String::as_str), Some("d"));
    assert_eq!(done.len(), 4);
}

#[tokio::test]
async fn a_failure_loses_what_needs_it_and_nothing_else() {
    let host = Arc::new(Recorder {
        fail: ["a".to_owned()].into(),
        ..Recorder::default()
    });
    let plan = plan(vec![
        start("a", &[]),
        start("b", &[0]),
        start("c", &[1]),
        start("d", &[]),
    ]);
    let report = execute(&host, &Arc::default(), &plan, cancellation().1, |_| {}).await;
    assert_eq!(
        report.failed.iter().map(|(index, _)| *index).collect::<Vec<_>>(),
        [0]
    );
    assert_eq!(report.skipped, [1, 2]);
    assert_eq!(*host.done.lock().unwrap(), ["d"]);
}

#[tokio::test]
async fn cancelling_abandons_waits_and_begins_nothing_new() {
    let host = Arc::new(Recorder {
        hang: ["await db".to_owned()].into(),
        ..Recorder::default()
    });
    let plan = plan(vec![start("db", &[]), wait("db", &[0]), start("web", &[1])]);
    let (canceller, cancelled) = cancellation();
    let report = execute(&host, &Arc::default(), &plan, cancelled, |event| {
        if matches!(&event, Event::Action { resource, phase: Phase::Begun, .. } if resource == "Service db") {
            canceller.cancel();
        }
    })
    .await;
    assert!(report.cancelled);
    assert!(report.failed.is_empty(), "{report:?}");
    assert_eq!(report.skipped, [1, 2]);
    assert_eq!(*host.done.lock().unwrap(), ["db"]);
}

#[tokio::test]
async fn a_walk_was_cancelled_also_when_what_it_abandoned_ends_first() {
    // Who hears of it first is chance.
    for _ in 0..300 {
        let host = Arc::new(Recorder {
            hang: ["await slow".to_owned()].into(),
            ..Recorder::default()
        });
        let plan = plan(vec![wait("slow", &[])]);
        let (canceller, cancelled) = cancellation();
        let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
        let walk = tokio::spawn(async move {
            let tell = |_| begun.send(()).unwrap();
            execute(&host, &Arc::default(), &plan, cancelled, tell).await
        });
        begins.recv().await;
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
        canceller.cancel();
        assert!(walk.await.unwrap().cancelled);
    }
}

#[tokio::test]
async fn an_index_that_points_nowhere_is_not_begun() {
    let host = Arc::new(Recorder::default());
    let plan = plan(vec![start("a", &[7])]);
    let report = execute(&host, &Arc::default(), &plan, cancellation().1, |_| {}).await;
    assert_eq!(report.skipped, [0]);
}

#[tokio::test]
async fn an_optional_wait_goes_on_when_what_it_waits_for_failed() {
    let host = Arc::new(Recorder {
        fail: ["db".to_owned()].into(),
        ..Recorder::default()
    });
    let plan = plan(vec![
        start("db", &[]),
        wait_for("db", &[0], false),
        start("web", &[1]),
    ]);
    let report = execute(&host, &Arc::default(), &plan, cancellation().1, |_| {}).await;
    assert!(report.skipped.is_empty(), "{report:?}");
    assert_eq!(*host.done.lock().unwrap(), ["await db", "web"]);
}
