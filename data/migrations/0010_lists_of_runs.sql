-- Lists of runs by their status, of all workflows and of one.
create index runs_status on taskflow.runs (status, id);
create index runs_workflow_status on taskflow.runs (workflow, status, id);
