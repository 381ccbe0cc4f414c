"""`http.call`: one HTTP request as a job."""
