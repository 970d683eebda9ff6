"""Differences that hold for every script, and those that no script shows."""

from __future__ import annotations

from tests.differential.case import Difference

ERROR_IS_TEXT = Difference(
    "`Result.error`",
    "a `TrialError` with the type, the text and the traceback of the trial's exception",
    "there it is the unpickled exception: reading an experiment executes nothing that is stored in it",
)
ATTEMPT_IN_ROWS = Difference(
    "rows after a retry",
    "all kept, each with its `attempt_number`; frames show the newest per iteration",
    "there they may be lost",
)
MARKER_IN_CHECKPOINT = Difference(
    "checkpoint directories",
    "also hold `COMMIT.json` and `.writer.json`",
    "a checkpoint without the marker is no checkpoint",
)

CLASS_ROWS = Difference(
    "rows of a class trainable",
    "have `checkpoint_dir_name`, and `should_checkpoint` where they were saved, as those of a function",
    "one format for both",
)
ROWS_OF_A_CLASS = {
    f"**{place}.{name}": CLASS_ROWS
    for place in ("metrics", "rows.*")
    for name in ("checkpoint_dir_name", "should_checkpoint")
}
NEVER_REPORTED = Difference(
    "`Result.metrics` of a trial that never reported",
    "has no `date` and `timestamp`, but its `experiment_tag`",
    "nothing was reported at any time",
)
WITHOUT_A_REPORT = dict.fromkeys(
    (f"**metrics.{name}" for name in ("date", "timestamp", "experiment_tag")), NEVER_REPORTED
)

#: Paths in any outcome that differ, each with its reason.
EVERYWHERE: dict[str, Difference] = {
    "**rows.*.attempt_number": ATTEMPT_IN_ROWS,
    "**metrics.attempt_number": ATTEMPT_IN_ROWS,
    "**files.COMMIT.json": MARKER_IN_CHECKPOINT,
    "**files..writer.json": MARKER_IN_CHECKPOINT,
    "**error.$raised": ERROR_IS_TEXT,
}

#: What no script shows. To be read like code: nothing checks these.
REVIEWED: tuple[Difference, ...] = (
    Difference(
        "`get_trial_dir()`",
        "the trial's working directory; what is left in it stays on that node, unless "
        "`SyncConfig(sync_artifacts=True)`",
        "there it is a directory of the driver at first, which gets to the storage only if the trial runs on the "
        "driver's machine, and of the worker later",
    ),
    Difference(
        "`Trial` in callbacks",
        "read-only; has `path`, `local_path` (None if the storage is not on this machine), `storage` (ours) and "
        "`checkpoint.path`; the checkpoint itself is `trial.storage.checkpoint(trial.dirname, trial.checkpoint.index)`",
        "the controller's own record, which the journal gives back after a resume; no `evaluated_params`: "
        "`config` and `experiment_tag` say the same",
    ),
    Difference(
        "`verbose=0`",
        "prints nothing",
        "there it still prints",
    ),
    Difference(
        "CPU trials",
        "those of one experiment share processes, each left as the first trial found it (environment, directory, "
        "`sys.path`, logging, warnings, signals; seeded as the trainable's modules seed it, or afresh), unless "
        "`TuneConfig(fresh_process=True)`",
        "starting a process costs a second; trials with GPUs or with more than one bundle do get a fresh one",
    ),
    Difference(
        "`finally` blocks of a trial that is stopped",
        "are waited for, up to `RunConfig.stop_timeout_s`",
        "there the process is killed at once",
    ),
    Difference(
        "trials that are lost with their node",
        "are tried again, without using up `max_failures`",
        "`FailureConfig(max_infrastructure_failures=16)`: so often in a row without a new checkpoint",
    ),
    Difference(
        "nodes that Ray drains",
        "their trials save and go on elsewhere",
        "there they run until they are killed",
    ),
    Difference(
        "trials that hang",
        "`RunConfig(trial_timeout_s=…, report_timeout_s=…)` kills them, in C code too",
        "there nothing does",
    ),
    Difference(
        "SIGTERM, and cancelling in Prefect",
        "stop cleanly within 30 s; the flow run ends Cancelled",
        "there trials are killed with the driver",
    ),
    Difference(
        "Ctrl-C",
        "unfinished trials are PAUSED",
        "they are not finished, and can go on",
    ),
    Difference(
        "resources that the cluster can never give",
        "an error at once that names the shortfall",
        "there it waits for ever",
    ),
    Difference(
        "two experiments of one name and path at once",
        "the second is refused",
        "there they overwrite each other",
    ),
    Difference(
        "`quniform` and its like",
        "every value of the grid is equally likely",
        "there both ends get half the weight",
    ),
    Difference(
        "`config` in `result.json`",
        "in the first row of each attempt, and in `params.json`; `Result.rows` and frames have it in every row",
        "there each row of the file repeats it",
    ),
    Difference(
        "`progress.csv`",
        "new metrics become new columns, a line break is a space, numbers are written as in JSON "
        "(`1e-5`), and text that spreadsheets would run as a formula begins with a `'`",
        "there the first row fixes them",
    ),
    Difference(
        "`error.pkl`, `params.pkl`, `tuner.pkl`",
        "not written",
        "reading an experiment executes nothing that is stored in it",
    ),
    Difference(
        "`filesystem` of checkpoints and results",
        "fsspec's",
        "pyarrow's are accepted where one is passed in",
    ),
    Difference(
        "`storage_filesystem=pyarrow.fs.S3FileSystem(…)`",
        "refused at the start: pyarrow has no conditional write, which keeps two drivers apart. "
        '`storage_path="s3://…"` with `storage_options`, or an `s3fs.S3FileSystem`, does the same',
        "there two drivers overwrite each other",
    ),
    Difference(
        "`SyncConfig.sync_period`",
        "no effect",
        "artifacts go with checkpoints and at the end, changed files only",
    ),
    Difference(
        "`storage_path` on local disk, Ray on several hosts",
        "refused, unless `storage_filesystem` says that it is shared",
        "there it fails on the worker",
    ),
    Difference(
        "Ray Client (`ray://`)",
        "refused",
        "a lost connection would lose every trial",
    ),
    Difference(
        "`register_trainable`, `register_env`",
        "names are of this process",
        "a trainable travels to workers as itself; RLlib keeps its own list",
    ),
    Difference(
        "import strings as trainables",
        '`"package.module:name"`',
        "there only registered names",
    ),
    Difference(
        "a searcher's plain dict",
        "the fixed values of `param_space` are added; a sampler that it leaves undecided is refused",
        "there the trainable gets the sampler",
    ),
    Difference(
        "a searcher that goes on after a resume",
        "is told of the journal's suggestions, and goes on as if nothing had been",
        "there its pickle is loaded",
    ),
    Difference(
        "`Tuner.restore`",
        "refuses what it cannot load, and what was left out; takes `num_samples`, `stop`, `tune_config`, `run_config`, "
        "`takeover` and `discard_damaged` too",
        "there the pickles of searcher and trainable are loaded, and an experiment cannot be extended",
    ),
    Difference(
        "a trial that is restarted",
        "keeps its id, and gets a new directory",
        "there it is a trial of another id, which the searcher does not know",
    ),
    Difference(
        "schedulers after a resume",
        "are told everything again, and go on",
        "there they start over",
    ),
    Difference(
        "the same name again",
        "a flow run that is tried again goes on with its experiment; another run begins a new one beside it, and "
        "`NAME@1` is the first",
        "there a new one is written over the old one",
    ),
    Difference(
        "`OptunaSearch`",
        "lists, `sample_from`, and steps on log scales work; points may be parts; its limit is the experiment's",
        "there they are refused, dropped or ignored",
    ),
    Difference(
        "`tune.run`",
        "`max_failures` and its like are taken; old arguments and an `Experiment` are refused with what does the same",
        "one way to say each thing",
    ),
    Difference(
        "`tune.run(resume=…)`",
        "what the call says holds from now on; an experiment that cannot be read is refused",
        "there the call is ignored, and such an experiment is begun again over the old one",
    ),
    Difference(
        "`ExperimentAnalysis.trials`",
        "read-only, with id, config, last result, status, checkpoint and directory",
        "there they are the controller's own",
    ),
    Difference(
        "`CLIReporter`, `JupyterNotebookReporter`",
        "the same options, another look; one that fails is logged and left out",
        "it is no reason to lose an experiment",
    ),
    Difference(
        "`TuneConfig(mode=…)` without `metric`",
        "refused",
        "it says which way, but not of what",
    ),
    Difference(
        "schedulers",
        "return a decision, an `Exploit` or a `Reallocate`; `choose_trial_to_run` and `trials_to_stop` are asked for "
        "paused trials",
        "there they drive the controller, so their past cannot be replayed",
    ),
    Difference(
        "metric and mode of a scheduler",
        "missing, or given there and in `TuneConfig`: a `ConfigError` when the `TuneConfig` is made",
        "there an error in `fit()`",
    ),
    Difference(
        "`ASHAScheduler(seed=…)`",
        "chooses brackets by a generator of its own",
        "there by numpy's global one",
    ),
    Difference(
        '`ASHAScheduler(type="promotion")`',
        "pauses trials at rungs and promotes the best before new ones start: the paper's algorithm",
        "there trials are only stopped",
    ),
    Difference(
        "`MultiObjectiveASHAScheduler`, `OptunaPruner`",
        "successive halving by several metrics; any pruner of Optuna as a scheduler",
        "there a scheduler compares by one metric, and Optuna's pruners cannot be used",
    ),
    Difference(
        "why a trial was stopped",
        "`decision_reason` of schedulers, `Result.reason`, the CLI, pages and task runs say it",
        "there nothing keeps it",
    ),
    Difference(
        "`ASHAScheduler`, `MedianStoppingRule`",
        "a report without a number as metric or time is not decided on; nested names; NaN and infinities "
        "have defined results; `MedianStoppingRule` counts the last report once, and forgets what a failed attempt "
        "reported after its checkpoint",
        "there such a report raises, or the result depends on the order of the reports",
    ),
    Difference(
        "`HyperBandScheduler` and brackets",
        "a bracket that is not full waits while the searcher has more trials, and one that was full lets no more in; "
        "trials that have come to the last milestone do not wait for the others",
        "there a bracket of few trials is compared as soon as they are all there, and takes in new ones later",
    ),
    Difference(
        "`HyperBandScheduler(max_t=729)` and its like",
        "rounding errors lose no bracket; each milestone is later than the one before",
        "there the largest bracket is missing, or trials are compared at one milestone again and again",
    ),
    Difference(
        "`TuneBOHB`",
        "the model is our own, and so are its draws; needs no HpBandSter and no ConfigSpace; learns from all "
        "reports, by iteration, under any scheduler; keeps quantisation",
        "there it needs packages that are no longer maintained, and `HyperBandForBOHB`",
    ),
    Difference(
        "`PopulationBasedTraining`, `PopulationBasedTrainingReplay`, `PB2`",
        "draws follow from `seed=…` and from what was told; samplers may be data, functions import strings; a trial "
        "whose metric is NaN counts as the worst; the donor is drawn among those of the best that have a checkpoint; "
        "a trial pauses for others only if one of them has come less far; a value that is no number is drawn again; a "
        "searcher that chooses, a second trial of a replay and mutations that cannot be of the space are refused at "
        "once",
        "there draws come from the global generators, a trial that has diverged is never replaced, and refusals come "
        "when trials are added",
    ),
    Difference(
        "`PopulationBasedTraining(synch=True)`",
        "the next interval always ends after the present time; all that take over are given their checkpoints at once",
        "there, if one report takes longer than the interval, every trial may wait for ever",
    ),
    Difference(
        "`PopulationBasedTrainingReplay` with a function",
        "a change is made at the next report with a checkpoint",
        "there it goes on from its last checkpoint, and does the work since then again",
    ),
    Difference(
        "`PB2`",
        "an observation begins with the time and the score at which its interval did; the point that is sought has "
        "those of its donor now; time is counted in intervals; integers are rounded; the latest 200 observations count",
        "there it has those of the interval's end; integers are cut; up to 1,000 observations count",
    ),
    Difference(
        "`ResourceChangingScheduler`",
        "its function is shown a `ClusterView`; trials may ask for different bundles; a trial moves when it has saved, "
        "not twice without having come further, and not at all if it never saves; bundles that the cluster cannot give "
        "are refused; works with `reuse_actors=True`",
        "there it gets the controller; a trial is paused at once, and goes on from its last checkpoint or from the "
        "beginning; what cannot be given is waited for",
    ),
    Difference(
        "`DistributeResources`, `DistributeResourcesToTopJob`",
        "units of any resource; what a trial is about to give up or to get counts as taken; a trial without a number "
        "is never the best",
        "there two trials may be given the same CPUs, and a trial that has not reported is the best one to maximise",
    ),
    Difference(
        "`FailureConfig(resources_after=…, max_failed_trials=…)`, `TuneConfig(max_cost=…)`",
        "more after a death; an end when too many have failed, or enough is used up",
        "not there",
    ),
    Difference(
        "`create_scheduler` with an argument that no scheduler knows",
        "refused",
        "there it is dropped",
    ),
    Difference(
        "PAUSE of a training function",
        "at its next report with a checkpoint; at once, with a warning, if it has never saved",
        "there it goes on from its last checkpoint, and does the work since then again",
    ),
    Difference(
        "paused trials that the scheduler never chooses",
        "end TERMINATED when nothing runs any more, and the end says so",
        "there the experiment may hang",
    ),
    Difference(
        "a trial that is paused, moved or told to exploit 101 times without a new iteration",
        "ends with an error that says so",
        "there it goes on for ever",
    ),
    Difference(
        "exploit",
        "the trial starts from the donor's checkpoint where it lies, which is kept as long",
        "there it is copied",
    ),
    Difference(
        "class trainable that is paused, or stopped by Ctrl-C",
        "is saved first",
        "there what was not saved is lost, and a pause without `save_checkpoint` fails",
    ),
    Difference(
        "`save_checkpoint` that raises",
        "its step is reported, then the attempt fails",
        "the step was taken",
    ),
    Difference(
        "`setup` that raises",
        "`cleanup` is called",
        "there the process ends with it; here it serves other trials",
    ),
    Difference(
        "`tune.get_context()` inside a class",
        "works",
        "there it warns and gives None",
    ),
    Difference(
        "`get_dataframe()` and `ExperimentAnalysis.dataframe()` with a trial that never reported",
        "it has a row, without metrics; if a trial failed, `trial_error` says why",
        "there the frame has fewer rows than there are trials",
    ),
    Difference(
        "which trial is best, everywhere but in `ExperimentAnalysis`",
        '`TuneConfig(best_scope=…)` says it once, for `get_best_result()` and all that is shown; "last" by default',
        "there `get_best_result` alone takes a scope, each time",
    ),
    Difference(
        "a list of metrics in `TuneConfig`",
        "trials are compared by all of them: `pareto_front()`, fronts in all tables; `get_best_result()` asks for one",
        "there only a searcher takes a list, and nothing else knows of it",
    ),
    Difference(
        "what earlier experiments have found",
        "`TuneConfig(warm_start=…)` reads their journals; what was taken is in the new one's",
        "there `points_to_evaluate`, written by hand, or a searcher's pickle",
    ),
    Difference(
        "`Tuner.restore(param_space=…)` with other values, or more parameters",
        "holds for the trials to come; a parameter of another kind, and another grid, are refused",
        "there it has to be the space that the experiment began with",
    ),
    Difference(
        "a metric that only the scheduler or the searcher was given",
        "trials are compared by it: `get_best_result()`, terminal, leaderboard",
        "there `get_best_result()` raises",
    ),
    Difference(
        "`reuse_actors=True`",
        "limits by `TuneConfig(max_reuses=…, max_reuse_memory=…)`; objects end with their experiment",
        "a process that leaks is replaced",
    ),
    Difference(
        "`reuse_actors=True` on GPUs", "the process is kept, until a trial fails in it", "it was asked for"
    ),
    Difference(
        "`Trainable()` outside a Tuner",
        "its `logdir` is made in the temporary directory, when it is asked for",
        "there `~/ray_results` fills up",
    ),
    Difference(
        '`config["log_sys_usage"]`',
        "has no effect",
        "Prefect and Ray show the load of nodes",
    ),
    Difference(
        "`tune.utils.wait_for_gpu`",
        "asks NVML (extra `gpu`), or GPUtil if that can be imported",
        "GPUtil is unmaintained and does not import on Python 3.12",
    ),
    Difference(
        "`tune.utils.validate_save_restore`",
        "starts Ray if need be; the two processes run one after the other, and need no disk in common",
        "there each needs its own GPU, and both the same disk",
    ),
    Difference(
        "`tune.utils.diagnose_serialization`",
        "looks at attributes of objects and classes and arguments of partials too",
        "there only functions can be looked at",
    ),
)
