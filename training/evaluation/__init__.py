"""Count which images a network classifies correctly, and show it. A new suite is one file in `suites` and a line there.

A layer imports only from layers below it:

    training.evaluate, export, compare, plots   commands
    page, results_page                          what people read: HTML; Markdown, whose counts the bundle stores too
    documents                                   what one suite found, as a JSON file
    suites                                      one file a suite: its words, its computation, its tables, its figures
    suite, table                                what a suite is and works on; the accuracy tables of a bundle
    attack_checks, cache                        warnings about a figure; outcomes stored on disk
    inspection, counting                        a network's inside; outcomes: is each image classified correctly?
    judged, plot_style, text_table              the network; how figures and tables look
"""
