//! A day of a real stack: nginx before a Python application on PostgreSQL and
//! redis, from a real registry.

mod support;

use support::World;
use support::stack::Foreground;

/// The stack file, with a greeting.
fn stack(registry: &str, greeting: &str) -> String {
    format!(
        r#"name: shop
services:
  web:
    image: {registry}/nginx
    ports: ["127.0.0.1:8080:80"]
    volumes: ["./nginx.conf:/etc/nginx/conf.d/default.conf:ro"]
    networks: [front]
    depends_on:
      app: {{condition: service_healthy}}
  app:
    image: {registry}/pyapp
    environment:
      GREETING: {greeting}
      DATABASE_URL: postgresql://postgres:secret@db:5432/postgres
      REDIS_HOST: cache
    networks: [front, back]
    depends_on:
      db: {{condition: service_healthy}}
      cache: {{condition: service_started}}
  db:
    image: {registry}/postgres
    environment:
      POSTGRES_PASSWORD: secret
    volumes: ["data:/var/lib/postgresql/data"]
    networks: [back]
    healthcheck: {{test: [CMD, pg_isready, -U, postgres, -h, 127.0.0.1], interval: 2s}}
  cache:
    image: {registry}/redis
    networks: [back]
networks:
  front:
  back:
    internal: true
volumes:
  data:
"#
    )
}

const NGINX: &str = "server {
  listen 80;
  location / {
    proxy_pass http://app:8000;
  }
}
";

#[test]
fn a_real_stack_serves_keeps_its_rows_and_follows_its_file() {
    let Some(world) = World::new() else { return };
    let registry = world.registry(&["nginx", "pyapp", "postgres", "redis"]);
    world.write("nginx.conf", NGINX);
    world.write("compose.yaml", stack(&registry, "Hello"));

    let mut up = Foreground::start(&mut world.rcompose(&["up"]));
    up.wait_for("Container shop-web-1  Started");
    support::wait_for("the application to answer", || {
        let answer = world.get("http://127.0.0.1:8080/health");
        answer.stdout.starts_with("ok").then_some(())
    });
    for row in ["first", "second"] {
        let posted =
            support::finish(
                world
                    .command("curl")
                    .args(["-sS", "-d", row, "http://127.0.0.1:8080/rows"]),
            );
        assert!(posted.stdout.contains(row), "{posted:?}");
    }
    assert!(
        world
            .get("http://127.0.0.1:8080/")
            .stdout
            .starts_with("Hello from")
    );

    // A save changes one service, and nothing else.
    let before: Vec<String> = ["web", "app", "db", "cache"]
        .map(|name| world.id_of(&format!("shop-{name}-1")))
        .into();
    world.write("compose.yaml", stack(&registry, "Good day"));
    support::wait_for("the new greeting", || {
        world
            .get("http://127.0.0.1:8080/")
            .stdout
            .starts_with("Good day from")
            .then_some(())
    });
    let after: Vec<String> = ["web", "app", "db", "cache"]
        .map(|name| world.id_of(&format!("shop-{name}-1")))
        .into();
    let changed: Vec<bool> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| before != after)
        .collect();
    assert_eq!(changed, [false, true, false, false]);

    // A broken save changes nothing and says where the error is.
    world.write(
        "compose.yaml",
        stack(&registry, "Good day").replace("internal:", "internat:"),
    );
    up.wait_for("compose.yaml:33:5");
    assert!(
        world
            .get("http://127.0.0.1:8080/")
            .stdout
            .starts_with("Good day from")
    );
    world.write("compose.yaml", stack(&registry, "Good day"));

    // The rows outlive a restart of everything.
    world.run(&["restart"]).ok();
    support::wait_for("the rows after the restart", || {
        let rows = world.get("http://127.0.0.1:8080/rows").stdout;
        (rows.contains("first") && rows.contains("second")).then_some(())
    });
    let logs = world.run(&["logs", "db"]).ok().stdout;
    assert!(
        logs.contains("database system is ready to accept connections"),
        "{logs}"
    );
    let shown = world
        .run(&[
            "exec",
            "-T",
            "db",
            "psql",
            "-U",
            "postgres",
            "-tc",
            "SELECT count(*) FROM rows",
        ])
        .ok();
    assert_eq!(shown.stdout.trim(), "2");

    up.signal(rustix::process::Signal::INT);
    assert_eq!(up.end(), 130);
    assert!(world.ps().iter().all(|container| container["State"] == "exited"));

    // And a new stack on the same volume.
    world.run(&["down"]).ok();
    world.assert_nothing_left();
    world.run(&["up", "-d", "--wait"]).ok();
    // The server in front has no health check: it runs, and is about to listen.
    support::wait_for("the rows in the new stack", || {
        let rows = world.get("http://127.0.0.1:8080/rows");
        rows.stdout.contains("second").then_some(())
    });
    world.run(&["down", "-v"]).ok();
    world.assert_nothing_left();
    assert!(!world.state().join("volumes/shop_data").exists());
}
