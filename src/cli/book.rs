//! `burn book`: double-entry books.
//!
//! Commands open the store, which takes its lock; `check` takes the lock and changes nothing.

mod common;
mod posting;
mod reading;

use std::process::ExitCode;

use anyhow::bail;
use chrono::{DateTime, Utc};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use talea_core::store::{AccountCfg, Store as _, StoreError};
use talea_core::types::{
    AccountDef, AccountId, AccountKind, AssetClass, AssetDef, AssetId, Direction, Network, Seq, TxId,
};
use uuid::Uuid;

use self::common::{BookDir, in_words, open, open_or_create, parse_account, user_books};
use self::posting::post;
use self::reading::{
    account_json, balance, check, events, history, list_accounts, list_assets, trial_balance,
};
use super::arguments::JsonArg;
use super::{print_json, refuse_foreign};
use crate::book::LogTaleaStore;

#[derive(Debug, Args)]
#[command(after_help = "\
Accounts are named BOOK:PATH, as in shop:cash; a ':' or '\\' in the book's name has a '\\' before it.
Amounts in JSON are whole minor units (cents); tables show them with the asset's precision.

Examples:
  burn book init accounts
  burn book asset accounts USD --precision 2 --name 'US dollar'
  burn book account accounts shop:cash --asset USD --kind asset
  burn book account accounts shop:sales --asset USD --kind income
  burn book post accounts < transactions.jsonl
  burn book balance accounts --json
  burn book check accounts")]
pub(super) struct BookArgs {
    #[command(subcommand)]
    command: BookCommand,
    #[command(flatten)]
    form: JsonArg,
}

#[derive(Debug, Subcommand)]
enum BookCommand {
    /// Create a store, unless there is one.
    #[command(after_help = "Examples:\n  burn book init accounts")]
    Init {
        #[command(flatten)]
        common: BookDir,
    },
    /// Register an asset, or list all.
    #[command(after_help = "\
Examples:
  burn book asset accounts
  burn book asset accounts USD --precision 2 --name 'US dollar'
  burn book asset accounts BTC --precision 8 --name Bitcoin --network bitcoin")]
    Asset {
        #[command(flatten)]
        common: BookDir,
        /// Its id; without one all assets are listed.
        #[arg(requires = "precision")]
        id: Option<String>,
        /// Decimal places; they cannot be changed later.
        #[arg(long, requires = "id")]
        precision: Option<u8>,
        /// Its name [default: its id]
        #[arg(long, requires = "id")]
        name: Option<String>,
        /// The network of a crypto asset; without one it is fiat.
        #[arg(long, requires = "id")]
        network: Option<String>,
        /// The asset's id in the network.
        #[arg(long, requires = "network")]
        native_id: Option<String>,
    },
    /// Open an account, or list all.
    #[command(after_help = "\
Examples:
  burn book account accounts
  burn book account accounts shop:cash --asset USD --kind asset --min-balance 0")]
    Account {
        #[command(flatten)]
        common: BookDir,
        /// BOOK:PATH; without one all accounts are listed. The first account makes its book.
        #[arg(requires = "asset", requires = "kind", value_parser = parse_account)]
        account: Option<AccountId>,
        /// The asset it holds.
        #[arg(long, requires = "account")]
        asset: Option<String>,
        /// The kind of account.
        #[arg(long, value_parser = kind_parser(), requires = "account")]
        kind: Option<AccountKind>,
        /// The side on which its balance counts [default: that of its kind]
        #[arg(long, value_enum, requires = "account")]
        normal_side: Option<NormalSideArg>,
        /// The balance, in minor units, below which no transaction may take it.
        #[arg(long, requires = "account", allow_negative_numbers = true)]
        min_balance: Option<i64>,
    },
    /// Commit transactions: JSON from standard input, one a line.
    #[command(after_help = "\
A line: {\"idempotency_key\":\"r-1\",\"postings\":[
          {\"account\":\"shop:cash\",\"amount\":{\"minor\":1250,\"asset\":\"USD\"},\"direction\":\"debit\"},
          {\"account\":\"shop:sales\",\"amount\":{\"minor\":1250,\"asset\":\"USD\"},\"direction\":\"credit\"}]}
Optional: id (a UUID; random), book (that of the first account), external_refs, metadata, occurred_at (now). The \
`event` of `burn book events` has the same form.

Lines that wait on standard input are committed together, up to --batch lines. For each line, once it is durable, standard output has its \
sequence number, transaction id and time, separated by tabs; for a key that was used before, those of that time. Lines that are refused are \
named on standard error, and the exit code is 1.

A transaction is committed as it is. The program that posts it must see that debits equal credits, that there are postings, and \
that amounts are positive. `burn book trial-balance` and `burn book check` show where a book is out of balance.

Examples:
  burn book post accounts < transactions.jsonl")]
    Post {
        #[command(flatten)]
        common: BookDir,
        /// Most lines that are committed together.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1024))]
        batch: u32,
    },
    /// Print balances, of one account or of all.
    #[command(after_help = "\
Examples:
  burn book balance accounts
  burn book balance accounts shop:cash --as-of 2026-01-31T23:59:59Z --json")]
    Balance {
        #[command(flatten)]
        common: BookDir,
        /// BOOK:PATH [default: all]
        #[arg(value_parser = parse_account)]
        account: Option<AccountId>,
        /// As it was at this time (RFC 3339).
        #[arg(long, value_parser = parse_time)]
        as_of: Option<DateTime<Utc>>,
    },
    /// Print the postings of an account.
    #[command(after_help = "Examples:\n  burn book history accounts shop:cash --limit 20")]
    History {
        #[command(flatten)]
        common: BookDir,
        /// BOOK:PATH.
        #[arg(value_parser = parse_account)]
        account: AccountId,
        /// Only postings of events after this sequence number.
        #[arg(long, default_value_t = 0)]
        after: Seq,
        /// Most transactions to show [default: all]
        #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
        limit: usize,
    },
    /// Print debits and credits of each asset, of one book or of all.
    #[command(after_help = "Examples:\n  burn book trial-balance accounts shop --as-of 2026-01-31T23:59:59Z")]
    TrialBalance {
        #[command(flatten)]
        common: BookDir,
        /// The book [default: all]
        book: Option<String>,
        /// As they were at this time (RFC 3339).
        #[arg(long, value_parser = parse_time)]
        as_of: Option<DateTime<Utc>>,
    },
    /// Print the events of a book, one JSON object a line; `_system` has the registrations.
    #[command(after_help = "Examples:\n  burn book events accounts shop --from 100 --limit 10")]
    Events {
        #[command(flatten)]
        common: BookDir,
        /// The book.
        book: String,
        /// The sequence number of the first event to show.
        #[arg(long, default_value_t = 1)]
        from: Seq,
        /// Most events to show [default: all]
        #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
        limit: usize,
    },
    /// Print a transaction by its id, as JSON.
    #[command(
        after_help = "Examples:\n  burn book transaction accounts 7d0c6c5e-9e53-4d53-8b0e-6a3f6f0e5f11"
    )]
    Transaction {
        #[command(flatten)]
        common: BookDir,
        /// Its UUID.
        id: Uuid,
    },
    /// Write a snapshot, of one book or of all, so that the next opening is fast.
    #[command(after_help = "\
Examples:
  burn book snapshot accounts
  burn book snapshot accounts shop --json")]
    Snapshot {
        #[command(flatten)]
        common: BookDir,
        /// The book [default: all]
        book: Option<String>,
    },
    /// Verify every segment, snapshot and run, changing nothing; exit 1 if anything is wrong.
    #[command(after_help = "\
Every finding names the file, the byte offset where there is one, what is wrong, and what opening the store does about it.
After a damaged part the check goes on with the rest.

Examples:
  burn book check accounts
  burn book check accounts --json")]
    Check {
        #[command(flatten)]
        common: BookDir,
    },
}

impl BookCommand {
    fn common(&self) -> &BookDir {
        match self {
            Self::Init { common }
            | Self::Asset { common, .. }
            | Self::Account { common, .. }
            | Self::Post { common, .. }
            | Self::Balance { common, .. }
            | Self::History { common, .. }
            | Self::TrialBalance { common, .. }
            | Self::Events { common, .. }
            | Self::Transaction { common, .. }
            | Self::Snapshot { common, .. }
            | Self::Check { common } => common,
        }
    }
}

/// A time, RFC 3339.
fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    text.parse().map_err(|error| format!("{error}; a time such as 2026-01-31T23:59:59Z is needed"))
}

/// Parses the word that events have for a kind of account.
fn kind_parser() -> impl TypedValueParser<Value = AccountKind> {
    let kinds = PossibleValuesParser::new(["asset", "liability", "income", "expense", "equity", "clearing"]);
    kinds.try_map(|word| serde_json::from_value(word.into()))
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum NormalSideArg {
    Debit,
    Credit,
    None,
}

pub(super) fn run(args: BookArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let store = args.command.common().dir.display().to_string();
    runtime.block_on(dispatch(args.command)).map_err(|error| {
        let (error, has_place) = match error.downcast_ref::<StoreError>() {
            Some(store_error) => {
                (anyhow::Error::msg(in_words(store_error)), matches!(store_error, StoreError::Io(_)))
            }
            None => (error, true),
        };
        // What is wrong with a file names it; what the books lack does not.
        let text = error.to_string();
        let is_lacking = text.starts_with("there is no ") && !text.contains(&format!(" at {store}"));
        if has_place && !is_lacking { error } else { error.context(store) }
    })
}

async fn dispatch(command: BookCommand) -> anyhow::Result<ExitCode> {
    match command {
        BookCommand::Init { common } => init(&common).await?,
        BookCommand::Check { common } => return check(&common),
        BookCommand::Post { common, batch } => return post(&common, batch as usize).await,
        command => {
            let BookDir { dir, json } = command.common();
            let (store, json) = (open(dir).await?, *json);
            work(command, &store, json).await?;
            store.shutdown().await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a command on an open store.
async fn work(command: BookCommand, store: &LogTaleaStore, json: bool) -> anyhow::Result<()> {
    match command {
        // These open the store themselves.
        BookCommand::Init { .. } | BookCommand::Check { .. } | BookCommand::Post { .. } => Ok(()),
        BookCommand::Asset { id: Some(id), precision: Some(precision), name, network, native_id, .. } => {
            let name = name.unwrap_or_else(|| id.clone());
            let class = match network {
                Some(network) => AssetClass::Crypto { network: Network::new(network), native_id },
                None => AssetClass::Fiat,
            };
            let asset = AssetDef { id: AssetId::new(id), class, precision, name };
            store.register_asset(&asset).await?;
            if json { print_json(&asset) } else { Ok(()) }
        }
        BookCommand::Asset { .. } => list_assets(store, json),
        BookCommand::Account {
            account: Some(id),
            asset: Some(asset),
            kind: Some(kind),
            normal_side,
            min_balance,
            ..
        } => {
            let normal_side = match normal_side {
                Some(NormalSideArg::Debit) => Some(Direction::Debit),
                Some(NormalSideArg::Credit) => Some(Direction::Credit),
                Some(NormalSideArg::None) => None,
                None => kind.normal_side(),
            };
            let def = AccountDef { id, asset: AssetId::new(asset), kind };
            let cfg = AccountCfg { normal_side, min_balance };
            store.open_account(&def, &cfg).await?;
            if json { print_json(&account_json(&def, &cfg)) } else { Ok(()) }
        }
        BookCommand::Account { .. } => list_accounts(store, json),
        BookCommand::Balance { account, as_of, .. } => balance(store, account, as_of, json).await,
        BookCommand::History { account, after, limit, .. } => {
            history(store, &account, after, limit, json).await
        }
        BookCommand::TrialBalance { book, as_of, .. } => trial_balance(store, book, as_of, json).await,
        BookCommand::Events { book, from, limit, .. } => events(store, &book, from, limit, json).await,
        BookCommand::Transaction { id, .. } => {
            let Some(found) = store.transaction(&TxId(id)).await? else {
                bail!("there is no transaction {id}")
            };
            print_json(&json!({"seq": found.seq, "at": found.at, "transaction": found.transaction}))
        }
        BookCommand::Snapshot { book, .. } => {
            let books = match book {
                Some(book) if book == "_system" => {
                    bail!("_system gets no snapshot, because a snapshot has no registrations")
                }
                Some(book) => vec![book],
                None => user_books(store)?,
            };
            for book in &books {
                store.snapshot_now(book).await?;
            }
            if json { print_json(&json!({"books": books})) } else { Ok(()) }
        }
    }
}

async fn init(common: &BookDir) -> anyhow::Result<()> {
    refuse_foreign(&common.dir, "book store", |names| {
        names.iter().any(|name| name == "books") || names.iter().all(|name| name == "LOCK")
    })?;
    let (store, recovery) = open_or_create(&common.dir).await?;
    let books = user_books(&store)?;
    store.shutdown().await;
    if common.json {
        let recovery = recovery.relative_to(&common.dir);
        print_json(
            &json!({"directory": common.dir.to_string_lossy(), "books": books, "recovery": recovery}),
        )?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use talea_core::types::Book;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn account_keys_are_read_as_the_trait_writes_them(book in "[a:\\\\ß]{0,6}", path in "[a:\\\\ß]{0,6}") {
            let id = AccountId { book: Book(book), path };
            prop_assert_eq!(parse_account(&id.to_key()).unwrap(), id);
        }
    }
}
