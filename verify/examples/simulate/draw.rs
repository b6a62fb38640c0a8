//! The picture: what links are judged to be, by the share they lose in truth. Plain SVG.

use std::fmt::Write as _;

pub(crate) struct Point {
    /// True share, in objectives.
    pub(crate) times: f64,
    pub(crate) ready: f64,
    pub(crate) not_ready: f64,
}

pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) points: Vec<Point>,
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 90.0;
const TICKS: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0];
/// Dash patterns of the kinds of loss.
const DASHES: &[&str] = &["", "9 4", "5 4", "2 4"];
const READY: &str = "#1a7f37";
const NOT_READY: &str = "#c0392b";
const GREY: &str = "#6b7280";

/// The x axis is logarithmic.
fn x(times: f64) -> f64 {
    let (low, high) = (0.1_f64.ln(), 5.0_f64.ln());
    LEFT + (times.ln() - low) / (high - low) * (WIDTH - LEFT - RIGHT)
}

fn y(share: f64) -> f64 {
    TOP + (1.0 - share) * (HEIGHT - TOP - BOTTOM)
}

pub(crate) fn svg(curves: &[Curve], alpha: f64) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n"
    );
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        line(
            &mut out,
            (x(0.1), y(share)),
            (x(5.0), y(share)),
            "#e5e7eb",
            "",
        );
        text(
            &mut out,
            LEFT - 8.0,
            y(share) + 4.0,
            "end",
            GREY,
            &format!("{:.0} %", 100.0 * share),
        );
    }
    for times in TICKS {
        line(
            &mut out,
            (x(*times), y(0.0)),
            (x(*times), y(0.0) + 5.0),
            GREY,
            "",
        );
        text(
            &mut out,
            x(*times),
            y(0.0) + 19.0,
            "middle",
            GREY,
            &times.to_string(),
        );
    }
    let caption = "true loss, in objectives (1 %); logarithmic";
    text(&mut out, x(0.7), y(0.0) + 37.0, "middle", GREY, caption);
    line(&mut out, (x(1.0), y(0.0)), (x(1.0), y(1.0)), GREY, "1 3");
    line(
        &mut out,
        (x(0.1), y(alpha)),
        (x(5.0), y(alpha)),
        GREY,
        "1 3",
    );
    text(
        &mut out,
        x(5.0),
        y(alpha) - 5.0,
        "end",
        GREY,
        &format!("stated error {:.0} %", 100.0 * alpha),
    );
    for (curve, dash) in curves.iter().zip(DASHES) {
        path(&mut out, curve, READY, dash, |point| point.ready);
        path(&mut out, curve, NOT_READY, dash, |point| point.not_ready);
    }
    text(&mut out, x(0.11), y(0.93), "start", READY, "judged READY");
    text(
        &mut out,
        x(4.9),
        y(0.93),
        "end",
        NOT_READY,
        "judged NOT READY",
    );
    let mut at = LEFT;
    for (curve, dash) in curves.iter().zip(DASHES) {
        let row = HEIGHT - 18.0;
        line(
            &mut out,
            (at, row - 4.0),
            (at + 34.0, row - 4.0),
            "#111827",
            dash,
        );
        text(&mut out, at + 40.0, row, "start", "#111827", &curve.name);
        at += 210.0;
    }
    out += "</svg>\n";
    out
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str, dash: &str) {
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-dasharray=\"{dash}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, colour: &str, words: &str) {
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{words}</text>"
    );
}

fn path(out: &mut String, curve: &Curve, colour: &str, dash: &str, of: fn(&Point) -> f64) {
    let points: Vec<String> = curve
        .points
        .iter()
        .map(|point| format!("{:.1},{:.1}", x(point.times), y(of(point))))
        .collect();
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>",
        points.join(" ")
    );
}
