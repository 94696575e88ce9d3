//! The dependency graph as an SVG picture: a small layered layout of our own.
//!
//! *Layers*: a service stands one column right of the deepest of what it depends
//! on, so that all arrows point left. *Waypoints*: an arrow that passes columns
//! gets a place in each of them, so that it runs between boxes and not through
//! them. *Order*: a few sweeps sort each column by the middle of the neighbours
//! in the one before (the barycentre method of Sugiyama, Tagawa and Toda, 1981),
//! and the order with the fewest crossings is kept.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use unicode_width::UnicodeWidthStr as _;

/// A service.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) name: String,
    /// What its containers do.
    pub(super) state: String,
    /// A colour of SVG.
    pub(super) color: &'static str,
}

/// A dependency, by index of the nodes.
#[derive(Clone, Debug)]
pub(super) struct Arrow {
    /// Who depends.
    pub(super) from: usize,
    /// On whom.
    pub(super) to: usize,
    /// What is waited for, when it is more than a start.
    pub(super) label: Option<String>,
    pub(super) dashed: bool,
}

/// Pixels.
const HEIGHT: usize = 44;
const GAP: usize = 20;
const BETWEEN: usize = 120;
const MARGIN: usize = 24;
/// Columns of text to pixels, with a proportional font at 13 pixels: wide enough
/// for any letters.
const LETTER: usize = 8;
const SWEEPS: usize = 8;

/// What stands in a column: a node, or the place at which an arrow passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    Node(usize),
    Waypoint(usize),
}

/// Columns of cells, the dependencies leftmost; and for each arrow its cells
/// from right to left.
struct Layout {
    columns: Vec<Vec<Cell>>,
    paths: Vec<Vec<(usize, Cell)>>,
}

/// Draws nodes and arrows. Arrows that name no node, and those that would go
/// around in a circle, are left out.
pub(super) fn svg(title: &str, nodes: &[Node], arrows: &[Arrow]) -> String {
    let known = |arrow: &&Arrow| arrow.from < nodes.len() && arrow.to < nodes.len() && arrow.from != arrow.to;
    let arrows: Vec<&Arrow> = arrows.iter().filter(known).collect();
    let layout = Layout::new(nodes.len(), &arrows);
    render(title, nodes, &arrows, &layout)
}

impl Layout {
    fn new(count: usize, arrows: &[&Arrow]) -> Self {
        let layers = layers(count, arrows);
        let depth = layers.iter().max().map_or(0, |deepest| deepest + 1);
        let mut columns: Vec<Vec<Cell>> = vec![Vec::new(); depth];
        for (node, &layer) in layers.iter().enumerate() {
            if let Some(column) = columns.get_mut(layer) {
                column.push(Cell::Node(node));
            }
        }
        let layer = |node: usize| layers.get(node).copied().unwrap_or(0);
        let mut paths = Vec::with_capacity(arrows.len());
        for (number, arrow) in arrows.iter().enumerate() {
            let mut path = vec![(layer(arrow.from), Cell::Node(arrow.from))];
            for at in (layer(arrow.to) + 1..layer(arrow.from)).rev() {
                path.push((at, Cell::Waypoint(number)));
                if let Some(column) = columns.get_mut(at) {
                    column.push(Cell::Waypoint(number));
                }
            }
            path.push((layer(arrow.to), Cell::Node(arrow.to)));
            paths.push(path);
        }
        let mut this = Self { columns, paths };
        this.untangle();
        this
    }

    /// The place of a cell in its column.
    fn place(&self, column: usize, cell: Cell) -> usize {
        let column = self.columns.get(column);
        column.map_or(0, |column| {
            column.iter().position(|other| *other == cell).unwrap_or(0)
        })
    }

    /// Pieces of arrows between a column and the one to its right: the places.
    fn pieces(&self, left: usize) -> Vec<(usize, usize)> {
        let all = self.paths.iter().flat_map(|path| path.windows(2));
        all.filter_map(|pair| match pair {
            [(right, from), (at, to)] if *at == left => {
                Some((self.place(*at, *to), self.place(*right, *from)))
            }
            _ => None,
        })
        .collect()
    }

    fn crossings(&self) -> usize {
        (0..self.columns.len())
            .map(|left| {
                let pieces = self.pieces(left);
                let pairs = pieces.iter().enumerate();
                pairs
                    .map(|(at, one)| {
                        let later = pieces.iter().skip(at + 1);
                        later
                            .filter(|other| {
                                (one.0 < other.0 && one.1 > other.1) || (one.0 > other.0 && one.1 < other.1)
                            })
                            .count()
                    })
                    .sum::<usize>()
            })
            .sum()
    }

    /// Sorts columns, to and fro, and keeps the best order.
    fn untangle(&mut self) {
        let mut best = (self.crossings(), self.columns.clone());
        for sweep in 0..SWEEPS {
            let count = self.columns.len();
            for step in 1..count {
                let rightwards = sweep % 2 == 0;
                let at = if rightwards { step } else { count - 1 - step };
                self.sort(at, rightwards);
            }
            let crossings = self.crossings();
            if crossings < best.0 {
                best = (crossings, self.columns.clone());
            }
        }
        self.columns = best.1;
    }

    /// Sorts a column by the middle of the neighbours on its left (or right).
    fn sort(&mut self, at: usize, by_left: bool) {
        let mut middles: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        let pieces = if by_left {
            at.checked_sub(1)
                .map(|left| self.pieces(left))
                .unwrap_or_default()
        } else {
            self.pieces(at)
                .into_iter()
                .map(|(left, right)| (right, left))
                .collect()
        };
        for (other, own) in pieces {
            let middle = middles.entry(own).or_default();
            middle.0 += other;
            middle.1 += 1;
        }
        let Some(column) = self.columns.get_mut(at) else {
            return;
        };
        let mut keyed: Vec<(usize, usize, Cell)> = column
            .iter()
            .enumerate()
            // What has no neighbour there stays where it is.
            .map(|(place, cell)| match middles.get(&place) {
                Some((sum, count)) => (sum * 1000 / (*count).max(1), place, *cell),
                None => (place * 1000, place, *cell),
            })
            .collect();
        keyed.sort_by_key(|(middle, place, _)| (*middle, *place));
        *column = keyed.into_iter().map(|(_, _, cell)| cell).collect();
    }
}

/// How deep each node stands: 0 for one that depends on nothing.
fn layers(count: usize, arrows: &[&Arrow]) -> Vec<usize> {
    let mut layers = vec![0; count];
    // The longest way has at most `count` steps; a circle is cut there.
    for _ in 0..count {
        let mut moved = false;
        for arrow in arrows {
            let wanted = layers
                .get(arrow.to)
                .map_or(0, |layer| layer + 1)
                .min(count.saturating_sub(1));
            if let Some(layer) = layers.get_mut(arrow.from)
                && *layer < wanted
            {
                *layer = wanted;
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    layers
}

fn render(title: &str, nodes: &[Node], arrows: &[&Arrow], layout: &Layout) -> String {
    let width_of = |node: &Node| (node.name.width().max(node.state.width()) * LETTER + 28).max(90);
    let widths: Vec<usize> = layout
        .columns
        .iter()
        .map(|column| {
            let boxes = column.iter().filter_map(|cell| match cell {
                Cell::Node(node) => nodes.get(*node).map(width_of),
                Cell::Waypoint(_) => None,
            });
            boxes.max().unwrap_or(0)
        })
        .collect();
    let mut lefts = Vec::with_capacity(widths.len());
    let mut x = MARGIN;
    for width in &widths {
        lefts.push(x);
        x += width + BETWEEN;
    }
    let width = x.saturating_sub(BETWEEN) + MARGIN;
    let tallest = layout.columns.iter().map(Vec::len).max().unwrap_or(0);
    let height = 2 * MARGIN + 24 + tallest * (HEIGHT + GAP);
    let center = |column: usize, cell: Cell| -> usize {
        let cells = layout.columns.get(column).map_or(0, Vec::len);
        let top = MARGIN + 24 + (tallest - cells) * (HEIGHT + GAP) / 2;
        top + layout.place(column, cell) * (HEIGHT + GAP) + HEIGHT / 2
    };
    let left = |column: usize| lefts.get(column).copied().unwrap_or(MARGIN);
    let right = |column: usize| left(column) + widths.get(column).copied().unwrap_or(0);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<title>{0}</title>\n<defs><marker id=\"tip\" viewBox=\"0 0 8 8\" \
         refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto-start-reverse\"><path d=\"M0 0L8 4L0 8z\" \
         fill=\"#667\"/></marker></defs>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"{MARGIN}\" y=\"{1}\" \
         font-weight=\"bold\" fill=\"#223\">{0}</text>\n",
        escaped(title),
        MARGIN + 4,
    );
    for (arrow, path) in arrows.iter().zip(&layout.paths) {
        text.push_str(&curve(arrow, path, &center, &left, &right));
    }
    for (column, cells) in layout.columns.iter().enumerate() {
        for cell in cells {
            let Cell::Node(index) = *cell else { continue };
            let Some(node) = nodes.get(index) else { continue };
            let (x, y) = (left(column), center(column, *cell) - HEIGHT / 2);
            let middle = x + widths.get(column).copied().unwrap_or(0) / 2;
            let _ = writeln!(
                text,
                "<g class=\"service\"><rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{HEIGHT}\" rx=\"6\" fill=\"#fafafc\" \
                 stroke=\"{}\" stroke-width=\"2\"/><text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" fill=\"#223\">{}</text><text \
                 x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" font-size=\"11\" fill=\"{}\">{}</text></g>",
                widths.get(column).copied().unwrap_or(0),
                node.color,
                y + 18,
                escaped(&node.name),
                y + 35,
                node.color,
                escaped(&node.state),
            );
        }
    }
    text.push_str("</svg>\n");
    text
}

/// One arrow, from the left side of who depends to the right side of what it
/// depends on, level where it passes a column.
fn curve(
    arrow: &Arrow,
    path: &[(usize, Cell)],
    center: &impl Fn(usize, Cell) -> usize,
    left: &impl Fn(usize) -> usize,
    right: &impl Fn(usize) -> usize,
) -> String {
    let mut line = String::new();
    let mut at = (0, 0);
    let last = path.len().saturating_sub(1);
    for (step, &(column, cell)) in path.iter().enumerate() {
        let y = center(column, cell);
        if step == 0 {
            at = (left(column), y);
            let _ = write!(line, "M{} {y}", at.0);
            continue;
        }
        let end = right(column);
        let middle = usize::midpoint(at.0, end);
        let _ = write!(line, "C{middle} {} {middle} {y} {end} {y}", at.1);
        at = (end, y);
        if step < last {
            at.0 = left(column);
            let _ = write!(line, "L{} {y}", at.0);
        }
    }
    let dash = if arrow.dashed {
        " stroke-dasharray=\"5 4\""
    } else {
        ""
    };
    let mut text =
        format!("<path d=\"{line}\" fill=\"none\" stroke=\"#99a\"{dash} marker-end=\"url(#tip)\"/>\n");
    if let (Some(label), Some(&(column, cell))) = (&arrow.label, path.first()) {
        // Beside who waits, where arrows to the same service are still apart.
        let (x, y) = (left(column) - 6, center(column, cell));
        let lower = path
            .get(1)
            .is_some_and(|&(column, cell)| center(column, cell) > y);
        let y = if lower { y + 13 } else { y - 5 };
        let _ = writeln!(
            text,
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\" font-size=\"10\" fill=\"#667\">{}</text>",
            escaped(label)
        );
    }
    text
}

/// Text as XML has it; what XML has no place for is left out.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            letter if letter.is_control() => {}
            letter => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrows(pairs: &[(usize, usize)]) -> Vec<Arrow> {
        let arrow = |&(from, to): &(usize, usize)| Arrow {
            from,
            to,
            label: Some("healthy".into()),
            dashed: false,
        };
        pairs.iter().map(arrow).collect()
    }

    fn layout(count: usize, pairs: &[(usize, usize)]) -> Layout {
        let arrows = arrows(pairs);
        Layout::new(count, &arrows.iter().collect::<Vec<_>>())
    }

    #[test]
    fn every_service_stands_right_of_what_it_depends_on() {
        let pairs = [(1, 0), (2, 1), (2, 0), (3, 2), (3, 0)];
        let all = arrows(&pairs);
        let layers = layers(4, &all.iter().collect::<Vec<_>>());
        assert_eq!(layers, [0, 1, 2, 3]);
        // 2 to 0 passes one column, 3 to 0 two.
        let layout = layout(4, &pairs);
        let sizes: Vec<usize> = layout.columns.iter().map(Vec::len).collect();
        assert_eq!(sizes, [1, 3, 2, 1]);
        assert!(
            layout
                .paths
                .iter()
                .flat_map(|path| path.windows(2))
                .all(|pair| pair[0].0 == pair[1].0 + 1)
        );
    }

    #[test]
    fn arrows_that_need_not_cross_do_not() {
        // Each depends on the one that stands opposite, from bottom to top.
        let pairs: Vec<(usize, usize)> = (0..8).map(|at| (8 + at, 7 - at)).collect();
        assert_eq!(layout(16, &pairs).crossings(), 0);
    }

    #[test]
    fn thirty_services_do_not_overlap() {
        let nodes: Vec<Node> = (0..30)
            .map(|number| Node {
                name: format!("service-{number}"),
                state: "running (healthy)".into(),
                color: "green",
            })
            .collect();
        let pairs: Vec<(usize, usize)> = (1..30).flat_map(|at| [(at, at / 2), (at, at / 3)]).collect();
        let text = svg("p", &nodes, &arrows(&pairs));
        let number = |line: &str, name: &str| -> usize {
            let rest = line.split_once(&format!(" {name}=\"")).unwrap().1;
            rest.split_once('"').unwrap().0.parse().unwrap()
        };
        let boxes: Vec<[usize; 4]> = text
            .lines()
            .filter(|line| line.starts_with("<g"))
            .map(|line| ["x", "y", "width", "height"].map(|name| number(line, name)))
            .collect();
        assert_eq!(boxes.len(), 30);
        for (at, one) in boxes.iter().enumerate() {
            for other in &boxes[at + 1..] {
                let apart = one[0] + one[2] <= other[0]
                    || other[0] + other[2] <= one[0]
                    || one[1] + one[3] <= other[1]
                    || other[1] + other[3] <= one[1];
                assert!(apart, "{one:?} {other:?}");
            }
        }
        let picture = text.lines().next().unwrap();
        let (width, height) = (number(picture, "width"), number(picture, "height"));
        assert!(
            boxes
                .iter()
                .all(|one| one[0] + one[2] <= width && one[1] + one[3] <= height)
        );
    }

    #[test]
    fn names_are_escaped_and_circles_end() {
        let node = |name: &str| Node {
            name: name.into(),
            state: String::new(),
            color: "red",
        };
        let text = svg(
            "<a&b>",
            &[node("x\u{1b}"), node("y")],
            &arrows(&[(0, 1), (1, 0), (7, 0)]),
        );
        assert!(
            text.contains("&lt;a&amp;b&gt;") && !text.contains('\u{1b}'),
            "{text}"
        );
        assert!(svg("none", &[], &[]).ends_with("</svg>\n"));
    }
}
