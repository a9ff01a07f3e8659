"""Count which images a network classifies correctly, and show it. A new suite is one file in `suites` and a line there.

A layer imports only from layers below it:

    training.evaluate, export, compare, plots   commands; below them export_int8
    page, results_page                          what people read: HTML; Markdown, whose counts the bundle stores too
    documents                                   what one suite found, as a JSON file
    suites                                      one file a suite: its words, its computation, its tables, its figures
    suite, table, paired                        what a suite is and works on; a bundle's tables; int8 beside float32
    attack_checks, cache                        warnings about a figure; outcomes stored on disk
    inspection, counting, square                a network's inside; is each image correct?; an attack without gradients
    judged, text_table                          the network; how tables look (figures and pages: oat_runtime.style)
"""
