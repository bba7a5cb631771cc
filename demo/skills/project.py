"""Facts about this project and about the model itself."""

from random import Random

from demo.dialogue import Turn, Wordings

FACTS: tuple[tuple[str, Wordings], ...] = (
    (
        "I am the demo model of Protocol OMNI: a toy for trying the service, not for real use.",
        Wordings(
            train=(
                "Who are you?",
                "What are you?",
                "(Please introduce|Introduce) yourself.",
                "Tell me about yourself.",
                "Hi, who are you?",
                "Are you (a robot|an AI|a real model|ChatGPT|a person)?",
                "What model are you?",
                "Which model (is this|are you)?",
                "Who am I talking to?",
                "What is your name?",
                "Hello, what is your name?",
                "Do you have a name?",
            ),
            held_out=("So who are you?", "Hello, who are you?", "Please tell me who you are."),
        ),
    ),
    (
        "I can do small sums, capitals, days and months, spell and repeat words, remember what you tell me,"
        " write JSON, call a tool, tell stories and talk about Protocol OMNI.",
        Wordings(
            train=(
                "What can you do?",
                "What can I ask you?",
                "Help",
                "Can you help me?",
                "How can you help me?",
                "What are you able to do?",
                "What do you know?",
                "Which skills do you have?",
                "I need help.",
                "List your skills.",
                "What can you do for me?",
            ),
            held_out=("Tell me what you can do.", "So what can you do?", "What are your skills?"),
        ),
    ),
    (
        "Protocol OMNI is an OpenAI-compatible API in front of one GPU, where every request is a durable job.",
        Wordings(
            train=(
                "What is Protocol OMNI?",
                "Tell me about Protocol OMNI.",
                "What is this (project|service)?",
                "What does Protocol OMNI do?",
                "Explain Protocol OMNI.",
                "(Please describe|Describe) Protocol OMNI.",
                "What is OMNI?",
                "What is this project about?",
                "Describe this project.",
            ),
            held_out=("Could you explain what Protocol OMNI is?", "Please tell me about this project."),
        ),
    ),
    (
        "Requests go into a queue in Redis; one worker takes them in order, and the answers stream back to the API.",
        Wordings(
            train=(
                "How does Protocol OMNI work?",
                "How does it work?",
                "How does this service work?",
                "What is the architecture?",
                "Explain the architecture of Protocol OMNI.",
                "Describe the architecture.",
                "What happens to a request?",
                "How is a request handled?",
                "How does the queue work?",
                "What architecture does Protocol OMNI have?",
            ),
            held_out=("Please explain how Protocol OMNI works.", "What is the architecture of this service?"),
        ),
    ),
    (
        "The API is a Flask app, run by gunicorn with gevent.",
        Wordings(
            train=(
                "What is the API (made|built) with?",
                "What does the API use?",
                "Which web framework is used?",
                "What web server runs the API?",
                "Is this Flask or Django?",
                "What runs the API?",
                "Which framework does the API use?",
                "What web framework is behind the API?",
                "Which framework is Protocol OMNI built on?",
                "Does Protocol OMNI use a web framework?",
                "What is Flask used for?",
                "What is gunicorn used for?",
                "What is gevent for?",
            ),
            held_out=("Which web framework does Protocol OMNI use?", "Tell me what the API is built with."),
        ),
    ),
    (
        "Redis keeps the queue; every request is an RQ job in it.",
        Wordings(
            train=(
                "What is Redis (used |)for?",
                "What is RQ (used |)for?",
                "Which queue is used?",
                "What queue does Protocol OMNI use?",
                "Why does it use Redis?",
                "Where are the jobs kept?",
                "Where is the queue?",
                "What does Redis do here?",
                "What does RQ do?",
            ),
            held_out=("Which queue does this project use?", "Tell me what Redis is used for."),
        ),
    ),
    (
        "One worker process owns the GPU and generates with torch and transformers, many requests at a time.",
        Wordings(
            train=(
                "What does the worker do?",
                "What is the worker?",
                "Which library runs the model?",
                "What does the GPU worker do?",
                "How many workers are there?",
                "What is torch used for?",
                "What is transformers used for?",
                "Tell me about the worker.",
                "Who uses the GPU?",
            ),
            held_out=("Please explain what the worker does.", "What is the GPU worker?"),
        ),
    ),
    (
        "Send stream: true and the answer comes piece by piece as server-sent events (SSE).",
        Wordings(
            train=(
                "How does streaming work?",
                "How do I stream?",
                "How can I stream an answer?",
                "What is SSE?",
                "Do you support streaming?",
                "Can I stream the answer?",
                "How do I get a stream?",
                "How do I turn on streaming?",
                "Tell me about streaming.",
            ),
            held_out=("Please explain streaming.", "How do I stream the answer?"),
        ),
    ),
    (
        "rq-dashboard shows queued, started, finished and failed jobs in the browser.",
        Wordings(
            train=(
                "What is rq-dashboard?",
                "What does the dashboard show?",
                "How can I see the jobs?",
                "Is there a dashboard?",
                "How do I watch the queue?",
                "Where can I see the queue?",
                "What is the dashboard for?",
                "How do I monitor the jobs?",
                "Tell me about the dashboard.",
            ),
            held_out=("What can I see in the dashboard?", "How can I watch the jobs?"),
        ),
    ),
    (
        "Every request is a durable job: it is finished exactly once, whatever process dies meanwhile.",
        Wordings(
            train=(
                "What is a durable job?",
                "What happens if the worker (dies|crashes)?",
                "Are jobs durable?",
                "What does durable mean?",
                "Are requests lost in a crash?",
                "What if a process dies?",
                "Is my request safe?",
                "What happens to a job after a crash?",
                "Tell me about durable jobs.",
            ),
            held_out=("What happens when the worker crashes?", "Please explain durable jobs."),
        ),
    ),
    (
        "Type make run, and the service starts on http://127.0.0.1:8000.",
        Wordings(
            train=(
                "How do I (start|run) (the service|it|the server|Protocol OMNI)?",
                "How can I start it?",
                "What does make run do?",
                "Which command starts the service?",
                "How to run this?",
                "What is make run?",
                "How do I get started?",
                "Start command?",
            ),
            held_out=("Tell me how to start the service.", "Which command runs the server?"),
        ),
    ),
    (
        "Type make test, and the whole suite runs on a CPU.",
        Wordings(
            train=(
                "How do I (test|run the tests)?",
                "How can I test it?",
                "What does make test do?",
                "Which command runs the tests?",
                "How to test this?",
                "What is make test?",
                "How do I test the project?",
                "Test command?",
            ),
            held_out=("Tell me how to run the tests.", "How can I run the tests?"),
        ),
    ),
    (
        "The service listens on port 8000.",
        Wordings(
            train=(
                "Which port is used?",
                "What port does it use?",
                "What is the port?",
                "On which port does the service listen?",
                "What port does the server listen on?",
                "Which port should I use?",
                "Port?",
                "What is the port number?",
            ),
            held_out=("Which port does the service use?", "Tell me the port."),
        ),
    ),
    (
        "The default API key is sk-local.",
        Wordings(
            train=(
                "What is the (default |)API key?",
                "Which API key do I need?",
                "Which key should I use?",
                "Do I need an API key?",
                "What key do I use?",
                "API key?",
                "What is the default key?",
                "Tell me the API key.",
            ),
            held_out=("Which API key should I use?", "Please tell me the default key."),
        ),
    ),
    (
        "Protocol OMNI is under the Apache-2.0 licence.",
        Wordings(
            train=(
                "What is the (licence|license)?",
                "Which (licence|license) does it have?",
                "Is it open source?",
                "Is Protocol OMNI open source?",
                "What (licence|license) is used?",
                "Under which (licence|license) is Protocol OMNI?",
                "Tell me the (licence|license).",
            ),
            held_out=("Which license does Protocol OMNI have?", "Please tell me the licence."),
        ),
    ),
    (
        "I was trained from scratch on text that demo/corpus.py generates.",
        Wordings(
            train=(
                "How were you (trained|made|built)?",
                "Who (made|trained|built) you?",
                "What were you trained on?",
                "Where does your training data come from?",
                "How big are you?",
                "Which data were you trained on?",
                "Tell me how you were made.",
                "Who created you?",
            ),
            held_out=("Please tell me how you were trained.", "What data were you trained on?"),
        ),
    ),
)


def project_facts(rng: Random, held_out: bool) -> Turn:
    answer, wordings = rng.choice(FACTS)
    return Turn(wordings.ask(rng, held_out), answer)
