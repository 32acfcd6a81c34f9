//! `burn prices`: what a model costs at a time. And `burn dev price`: the same for lines of test cases.
//!
//! May touch: `prices.json` of the home and the archive, for reading.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufWriter, Write};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

use super::arguments::{HomeArg, JsonArg, now};
use super::table::{self, Heading};
use super::{STDOUT, print_result, printable, query, warn, wrong_usage};
use crate::archive::Paths;
use crate::home::Home;
use crate::usage::prices::{Charge, Class, PricedModel, Rates, RequestContext, Size, TokenCounts};
use crate::usage::turn::{PricingKeys, RecordedUsage};
use crate::usage::{
    self, Dimension, Instant, Period, PriceTable, Prices, Question, Sums, TooLarge, Usd, Zone,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Prices are US dollars for a million tokens. They come from prices.json of the home, if there is one, \
and then from the table of the program. Without MODEL, all models of the program's table are listed.

Examples:
  burn prices claude-opus-4-7
  burn prices bedrock/us.anthropic.claude-opus-4-7 --at 2026-03-01
  burn prices | grep gemini
  burn prices diff new-prices.json     what another table would change in the archive, by month and model")]
pub(super) struct PricesArgs {
    /// The model, as a turn has it: with or without its provider before the name.
    model: Option<String>,
    /// With `diff` as MODEL: the price table to compare with the current one.
    #[arg(value_name = "FILE", requires = "model")]
    file: Option<std::path::PathBuf>,
    /// The time at which a request is made [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    #[command(flatten)]
    form: JsonArg,
    #[command(flatten)]
    home: HomeArg,
}

pub(super) fn run(args: PricesArgs) -> anyhow::Result<ExitCode> {
    let at = match args.at.as_deref() {
        None => now(),
        Some(text) => {
            let midnight = || Instant::of_turn(&format!("{text}T00:00:00Z"));
            Instant::of_turn(text).or_else(midnight).unwrap_or_else(|| {
                let reason = format!("--at: {text:?} is no time; write 2026-04-20 or 2026-04-20T10:15:00Z");
                wrong_usage(&["prices"], &reason)
            })
        }
    };
    let home = args.home.home()?;
    let prices = Prices::of_home(&home)?;
    match (args.model.as_deref(), &args.file) {
        (Some("diff"), Some(file)) => return diff(&home, &prices, &Prices::with_own(file)?, args.form.json),
        (Some("diff"), None) => wrong_usage(&["prices"], "diff needs the FILE of a price table"),
        (_, Some(_)) => wrong_usage(&["prices"], "a FILE is for `burn prices diff`"),
        (_, None) => {}
    }
    let table = PriceTable::built_in();
    let own = prices.own().map_or(String::new(), |(path, _)| format!("{} and ", path.display()));
    let head = format!(
        "at {}, prices of {}{} {}, dollars for a million tokens\n",
        at.to_rfc3339_seconds(),
        printable::line(&own),
        table.package(),
        table.version()
    );
    let document = |models: &[PricedModel<'_>]| {
        let models: Vec<Value> = models.iter().map(|model| model_json(model, at)).collect();
        serde_json::json!({
            "at": at.to_rfc3339_seconds(), "package": table.package(), "version": table.version(), "models": models
        })
    };
    let headings = Heading::list([
        "provider",
        "model",
        "#input",
        "#cache read",
        "#write 5m",
        "#write 1h",
        "#output",
        "#reasoning",
    ]);
    let text = |models: &[PricedModel<'_>]| {
        let rows: Vec<Vec<String>> = models.iter().map(|model| row(model, at)).collect();
        format!("{head}{}", table::text(&headings, &rows))
    };
    let Some(name) = args.model else {
        let own = prices.own().map(|(_, table)| table);
        let models: Vec<PricedModel<'_>> = own.into_iter().chain([table]).flat_map(PriceTable::all).collect();
        return print_result(args.form.json, &document(&models), || text(&models));
    };
    let Some(model) = prices.of_turn(None, &name) else {
        warn(&format!(
            "no price is known for {name:?}: its tokens count as unpriced; {} can hold a price",
            home.prices().display()
        ));
        return Ok(ExitCode::FAILURE);
    };
    print_result(args.form.json, &document(&[model]), || text(&[model]) + &conditions(&model, at))
}

/// Prints by month and model what the archive's turns cost under two tables, where that differs.
fn diff(home: &Home, before: &Prices, after: &Prices, is_json: bool) -> anyhow::Result<ExitCode> {
    let question = Question {
        period: Some(Period::Month),
        by: vec![Dimension::Model],
        zone: Zone::local(),
        ..Question::default()
    };
    let paths = Paths::of_home(home);
    // A failure is one of the question, too, which says it.
    let _ = query::warn_if_behind(&paths);
    let interrupt = super::interrupt::watch();
    let mut costs: BTreeMap<(String, String), [Option<Sums>; 2]> = BTreeMap::new();
    for (place, prices) in [before, after].into_iter().enumerate() {
        for row in usage::ask(&paths, &question, prices, &interrupt)?.rows {
            let month = row.period.map_or("undated".to_owned(), |month| month.key);
            let model = row.values.into_iter().next().flatten().unwrap_or_default();
            costs.entry((month, model)).or_default()[place] = Some(row.sums);
        }
    }
    let cost = |sums: &Option<Sums>| match sums {
        Some(sums) if sums.unpriced_tokens > 0 => {
            format!("{} and {} unpriced tokens", sums.usd, sums.unpriced_tokens)
        }
        Some(sums) => sums.usd.to_string(),
        None => "0".to_owned(),
    };
    let is_changed = |sums: &[Option<Sums>; 2]| {
        sums[0].map(|sums| (sums.usd, sums.unpriced_tokens))
            != sums[1].map(|sums| (sums.usd, sums.unpriced_tokens))
    };
    let changed: Vec<_> = costs.iter().filter(|(_, sums)| is_changed(sums)).collect();
    let side = |sums: &Option<Sums>| {
        let (usd, tokens) = sums.map_or((Usd::ZERO, 0), |sums| (sums.usd, sums.unpriced_tokens));
        serde_json::json!({"usd": usd.to_string(), "unpricedTokens": tokens.to_string()})
    };
    let change = |((month, model), [before, after]): &(&(String, String), &[Option<Sums>; 2])| serde_json::json!({"month": month, "model": model, "before": side(before), "after": side(after)});
    let changes: Vec<Value> = changed.iter().map(change).collect();
    print_result(is_json, &serde_json::json!({"changes": changes}), || {
        if changed.is_empty() {
            return "nothing changes\n".to_owned();
        }
        let headings = Heading::list(["month", "model", "#before", "#after"]);
        let row = |((month, model), [before, after]): &(&(String, String), &[Option<Sums>; 2])| {
            vec![month.clone(), model.clone(), cost(before), cost(after)]
        };
        table::text(&headings, &changed.iter().map(row).collect::<Vec<_>>())
    })
}

/// Prices for a million tokens, of searches and requests for a thousand, as exact decimals; null where there is none.
/// `larger` has the prices of requests with more input than `above` tokens.
fn model_json(model: &PricedModel<'_>, at: Instant) -> Value {
    let rates_of =
        |size| model.rates(at, &RequestContext::new(), Size::Tokens(size), &TokenCounts::default());
    let prices_of = |rates: &Rates| -> BTreeMap<&str, Option<String>> {
        let price = |class: Class| rates.for_million(class).map(|price| price.to_string());
        Class::ALL.into_iter().map(|class| (class.as_str(), price(class))).collect()
    };
    let rates = rates_of(0);
    let larger: Vec<Value> = model
        .sizes()
        .into_iter()
        .map(|above| serde_json::json!({"above": above, "prices": prices_of(&rates_of(above + 1))}))
        .collect();
    serde_json::json!({
        "provider": model.provider(), "model": model.model(), "isFree": rates.is_free(), "prices": prices_of(&rates),
        "larger": larger,
        "webSearch": rates.for_thousand_searches().to_string(), "request": rates.for_thousand_requests().to_string()
    })
}

fn row(model: &PricedModel<'_>, at: Instant) -> Vec<String> {
    let rates = model.rates(at, &RequestContext::new(), Size::Tokens(0), &TokenCounts::default());
    [vec![model.provider().to_owned(), model.model().to_owned()], cells(&rates)].concat()
}

fn cells(rates: &Rates) -> Vec<String> {
    let price = |class| match rates.for_million(class) {
        Some(price) => price.to_string(),
        None if rates.is_free() => "free".to_owned(),
        None => "none".to_owned(),
    };
    Class::ALL.into_iter().map(price).collect()
}

/// What is charged for searches and requests, and the prices of larger requests and of other contexts, a line each.
fn conditions(model: &PricedModel<'_>, at: Instant) -> String {
    let rates = |context: &RequestContext, size| {
        model.rates(at, context, Size::Tokens(size), &TokenCounts::default())
    };
    let plain = rates(&RequestContext::new(), 0);
    let mut text = String::new();
    for (price, what) in
        [(plain.for_thousand_searches(), "web searches"), (plain.for_thousand_requests(), "requests")]
    {
        if price != Usd::ZERO {
            text.push_str(&format!("a thousand {what}: {price}\n"));
        }
    }
    let mut line = |rates: &Rates, when: String| {
        let named = Class::ALL.into_iter().zip(cells(rates)).zip(cells(&plain));
        let changed: Vec<String> = named
            .filter(|((_, price), usual)| price != usual)
            .map(|((class, price), _)| format!("{} {price}", class.as_str()))
            .collect();
        if !changed.is_empty() {
            text.push_str(&format!("{when}: {}\n", changed.join(", ")));
        }
    };
    for start in model.sizes() {
        line(
            &rates(&RequestContext::new(), start + 1),
            format!("above {} tokens of input", super::grouped(start)),
        );
    }
    for context in model.contexts() {
        let when: Vec<String> = context.iter().map(|(key, value)| format!("{key} {value}")).collect();
        line(&rates(&context, 0), when.join(", "));
    }
    text
}

/// Reads cases from standard input, a line each, and prints what each is charged.
pub(super) fn dev() -> anyhow::Result<ExitCode> {
    let mut out = BufWriter::new(io::stdout().lock());
    for (number, line) in io::stdin().lock().lines().enumerate() {
        let line = line.context("cannot read standard input")?;
        let case: Value =
            serde_json::from_str(&line).with_context(|| format!("line {}: not a case", number + 1))?;
        let answer = answer(&case).with_context(|| format!("line {}", number + 1))?;
        writeln!(out, "{answer}").context(STDOUT)?;
    }
    out.flush().context(STDOUT)?;
    Ok(ExitCode::SUCCESS)
}

fn answer(case: &Value) -> anyhow::Result<Value> {
    let text = |value: &Value, key: &str| value[key].as_str().map(str::to_owned);
    let case_of = case.get("turn").unwrap_or(case);
    let name = text(case_of, "model").context("the case has no model")?;
    let ts = text(case_of, "ts").context("the case has no ts")?;
    let at = Instant::of_turn(&ts).with_context(|| format!("{ts:?} is no time"))?;
    let count = |key: &str| -> anyhow::Result<u64> {
        match &case_of["usage"][key] {
            Value::Null => Ok(0),
            count => count.as_u64().with_context(|| format!("usage.{key} is no count")),
        }
    };
    if case.get("turn").is_some() {
        let source = text(case_of, "source").context("the case has no source")?;
        let keys = PricingKeys::read(|key| case_of["enrichment"][key].as_str().map(Cow::Borrowed));
        let usage = RecordedUsage {
            input: count("input")?,
            output: count("output")?,
            reasoning: count("reasoning")?,
            cache_read: count("cacheRead")?,
            cache_create_5m: count("cacheCreate5m")?,
            cache_create_1h: count("cacheCreate1h")?,
        };
        let prices = Prices::built_in();
        let Some(model) = prices.of_turn(keys.provider.as_deref(), &name) else {
            return Ok(serde_json::json!({"unknown": "model"}));
        };
        let counts = usage.counts(&source);
        let rates = model.rates(at, &keys.context, keys.size(&source), &counts);
        return Ok(charged(&model, &rates, &counts, keys.web_searches)?);
    }
    let context: RequestContext = match case.get("context") {
        Some(context) => serde_json::from_value(context.clone()).context("its context")?,
        None => RequestContext::new(),
    };
    let counts = TokenCounts {
        input: count("input")?,
        cache_read: count("cacheRead")?,
        cache_write_5m: count("cacheWrite5m")?,
        cache_write_1h: count("cacheWrite1h")?,
        output: count("output")?,
        reasoning: count("reasoning")?,
    };
    match PriceTable::built_in().find(text(case, "provider").as_deref(), &name) {
        Err(unknown) => Ok(serde_json::json!({"unknown": unknown.as_str()})),
        Ok(model) => {
            let rates = model.rates(at, &context, Size::AllInput, &counts);
            Ok(charged(&model, &rates, &counts, count("webSearches")?)?)
        }
    }
}

fn charged(
    model: &PricedModel<'_>,
    rates: &Rates,
    counts: &TokenCounts,
    web_searches: u64,
) -> Result<Value, TooLarge> {
    let Charge { usd, .. } = rates.charge(counts, web_searches, 1)?;
    let mut answer = serde_json::json!({
        "provider": model.provider(), "model": model.model(), "usd": usd.to_string()
    });
    let unpriced = rates.unpriced(counts);
    if !unpriced.is_empty() {
        answer["unpriced"] = unpriced.into_iter().map(Class::as_str).collect();
    }
    if rates.is_tier_unknown {
        answer["tierUnknown"] = Value::Bool(true);
    }
    Ok(answer)
}
